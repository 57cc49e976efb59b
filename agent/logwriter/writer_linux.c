// The log loop of package logwriter. It runs in a constructor, before the Go
// runtime, in a process the containerd shim started: descriptor 3 is the
// container's stdout, 4 its stderr, 5 is closed once we are ready to read.

#define _GNU_SOURCE
#include "log_linux.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
	FD_STDOUT = 3,
	FD_STDERR = 4,
	FD_READY = 5,
};

static volatile sig_atomic_t stopping;
static struct stream streams[2];

static void on_term(int sig)
{
	(void)sig;
	stopping = 1;
}

static void finish(void)
{
	for (int i = 0; i < 2; i++) {
		while (streams[i].fd >= 0 && shoal_log_read(&streams[i], NULL, 0) > 0)
			;
		if (streams[i].used > 0)
			shoal_log_emit(&streams[i], streams[i].line, streams[i].used, 'F');
	}
	_exit(0);
}

// give_pipes gives the pipes to the root of the container's user namespace, so
// that it may open /dev/stdout. The shim does that only for pipes without us.
static void give_pipes(char **spec)
{
	long long owner;

	if (!shoal_take_number(spec, &owner))
		return;
	for (int fd = FD_STDOUT; fd <= FD_STDERR; fd++)
		if (fchown(fd, (uid_t)owner, (gid_t)owner) != 0)
			_exit(2);
}

static void run(void)
{
	sigset_t block, none;
	struct sigaction sa = { .sa_handler = on_term };

	sigemptyset(&block);
	sigaddset(&block, SIGTERM);
	sigprocmask(SIG_BLOCK, &block, NULL);
	sigaction(SIGTERM, &sa, NULL);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	prctl(PR_SET_NAME, "shoal-log", 0, 0, 0);

	streams[0].fd = FD_STDOUT;
	streams[0].name = "stdout";
	streams[1].fd = FD_STDERR;
	streams[1].name = "stderr";
	for (int i = 0; i < 2; i++)
		fcntl(streams[i].fd, F_SETFL, fcntl(streams[i].fd, F_GETFL) | O_NONBLOCK);
	shoal_log_open();
	close(FD_READY);

	for (;;) {
		struct pollfd p[2];
		int open_streams = 0;

		for (int i = 0; i < 2; i++) {
			p[i].fd = streams[i].fd;
			p[i].events = POLLIN;
			p[i].revents = 0;
			open_streams += streams[i].fd >= 0;
		}
		if (stopping || !open_streams)
			finish();
		if (ppoll(p, 2, NULL, &none) < 0 && errno != EINTR)
			finish();
		for (int i = 0; i < 2; i++)
			if (streams[i].fd >= 0 && p[i].revents)
				shoal_log_read(&streams[i], NULL, 0);
	}
}

__attribute__((constructor)) static void shoal_log_writer(int argc, char **argv)
{
	char *spec;

	if (argc != 3 || !argv || !argv[1] || strcmp(argv[1], "shoal-log-writer") != 0)
		return;
	spec = argv[2];
	if (!shoal_log_take(&spec))
		_exit(2);
	if (*spec != '/')
		give_pipes(&spec);
	if (*spec != '/')
		_exit(2);
	shoal_log.path = spec;
	run();
}
