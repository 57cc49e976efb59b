// The log loop of package logwriter. It runs in a constructor, before the Go
// runtime, in a process the containerd shim started: descriptor 3 is the
// container's stdout, 4 its stderr, 5 is closed once we are ready to read.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	FD_STDOUT = 3,
	FD_STDERR = 4,
	FD_READY = 5,
	MAX_LINE = 16 << 10, // keep equal to MaxLineBytes
	STAMP_MAX = 64,      // room for the time, the stream and the tag
	ROTATED_MAX = 64,    // rotated files looked at when reaping
};

struct stream {
	int fd;
	const char *name;
	size_t used;
	char line[MAX_LINE];
};

struct logfile {
	const char *path;
	int fd;
	long long size;
	long long max_bytes;
	long max_files;
};

static volatile sig_atomic_t stopping;
static struct stream streams[2];
static struct logfile out;

static void on_term(int sig)
{
	(void)sig;
	stopping = 1;
}

static void open_log(void)
{
	struct stat st;

	out.fd = open(out.path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	out.size = 0;
	if (out.fd >= 0 && fstat(out.fd, &st) == 0)
		out.size = st.st_size;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

// reap_rotated removes the oldest rotated files beyond the limit. Their names
// end in a time, so their order is their age.
static void reap_rotated(void)
{
	char dir[PATH_MAX], base[PATH_MAX], *names[ROTATED_MAX];
	const char *prefix;
	size_t count = 0, plen, i;
	struct dirent *e;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s", out.path);
	snprintf(base, sizeof(base), "%s", out.path);
	prefix = basename(base);
	plen = strlen(prefix);
	d = opendir(dirname(dir));
	if (!d)
		return;
	while (count < ROTATED_MAX && (e = readdir(d)))
		if (strncmp(e->d_name, prefix, plen) == 0 && e->d_name[plen] == '.') {
			names[count] = strdup(e->d_name);
			if (names[count])
				count++;
		}
	qsort(names, count, sizeof(names[0]), by_name);
	for (i = 0; i < count; i++) {
		// One of max_files is the file being written.
		if ((long)(count - i) > out.max_files - 1)
			unlinkat(dirfd(d), names[i], 0);
		free(names[i]);
	}
	closedir(d);
}

static void rotate(void)
{
	char name[PATH_MAX];
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	snprintf(name, sizeof(name), "%s.%04d%02d%02d-%02d%02d%02d.%09ld", out.path,
		 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		 tm.tm_min, tm.tm_sec, now.tv_nsec);
	if (rename(out.path, name) != 0 && errno != ENOENT)
		return;
	close(out.fd);
	reap_rotated();
	open_log();
}

static void write_all(const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = write(out.fd, buf, len);
		if (n < 0 && errno == EINTR)
			continue;
		// A full disk loses lines; it must never stop the container.
		if (n <= 0)
			return;
		buf += n;
		len -= (size_t)n;
		out.size += n;
	}
}

static void emit(struct stream *s, const char *msg, size_t len, char tag)
{
	char buf[STAMP_MAX + MAX_LINE + 1];
	struct timespec now;
	struct tm tm;
	int n;

	if (out.fd < 0)
		open_log();
	if (out.fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = snprintf(buf, STAMP_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ %s %c ",
		     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		     tm.tm_min, tm.tm_sec, now.tv_nsec, s->name, tag);
	memcpy(buf + n, msg, len);
	buf[n + len] = '\n';
	write_all(buf, n + len + 1);
	if (tag == 'F' && out.size >= out.max_bytes)
		rotate();
}

static void split_lines(struct stream *s, size_t fresh)
{
	char *start = s->line, *from = s->line + s->used, *nl;

	s->used += fresh;
	while ((nl = memchr(from, '\n', s->line + s->used - from))) {
		emit(s, start, nl - start, 'F');
		start = from = nl + 1;
	}
	s->used = s->line + s->used - start;
	memmove(s->line, start, s->used);
	if (s->used == MAX_LINE) {
		emit(s, s->line, s->used, 'P');
		s->used = 0;
	}
}

// drain reads once; it returns 0 when nothing is there now, -1 at the end.
static int drain(struct stream *s)
{
	ssize_t n = read(s->fd, s->line + s->used, MAX_LINE - s->used);

	if (n > 0) {
		split_lines(s, (size_t)n);
		return 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (s->used > 0)
		emit(s, s->line, s->used, 'F');
	s->used = 0;
	close(s->fd);
	s->fd = -1;
	return -1;
}

static void finish(void)
{
	for (int i = 0; i < 2; i++) {
		while (streams[i].fd >= 0 && drain(&streams[i]) > 0)
			;
		if (streams[i].used > 0)
			emit(&streams[i], streams[i].line, streams[i].used, 'F');
	}
	_exit(0);
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
	open_log();
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
				drain(&streams[i]);
	}
}

// take_number parses "N:" and moves past it.
static int take_number(char **s, long long *value)
{
	char *end;

	*value = strtoll(*s, &end, 10);
	if (end == *s || *end != ':' || *value <= 0)
		return 0;
	*s = end + 1;
	return 1;
}

__attribute__((constructor)) static void shoal_log_writer(int argc, char **argv)
{
	long long max_bytes, max_files;
	char *spec;

	if (argc != 3 || !argv || !argv[1] || strcmp(argv[1], "shoal-log-writer") != 0)
		return;
	spec = argv[2];
	if (!take_number(&spec, &max_bytes) || !take_number(&spec, &max_files) || *spec != '/')
		_exit(2);
	out.max_bytes = max_bytes;
	out.max_files = (long)max_files;
	out.path = spec;
	run();
}
