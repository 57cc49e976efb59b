// The console of one container with input or a terminal: it gives clients on
// a socket what the container writes, live, and the container what clients
// send, and writes the log like the log writer does. See console.go.
//
// The working directory has the named pipes "in", "out" and "err" that the
// shim opens at their other ends. Descriptor 3 is closed once all is ready.

#define _GNU_SOURCE
#include "log_linux.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	FD_CONSOLE_READY = 3,
	MAX_CLIENTS = 16,
	BACKLOG = 64 << 10,  // kept for the first client
	STUCK_SECONDS = 60,  // a client that takes nothing for so long is cut off
	LAST_MS = 5000,      // for a client to take the last output
	LAST_READS = 256,    // of what a container that is told to quit still writes
	// Kinds of packets, the first byte of each. Keep equal to those in attach.go.
	FROM_STDOUT = 'o',
	FROM_STDERR = 'e',
	HELLO = 'h',  // a client begins; the next byte is 'i' if it sends input
	INPUT = 'i',
	INPUT_END = 'c',
	STATE = 's', // asked, and answered with 'c' if the input is closed
	LOG_READ = 'r', // somebody reads the log, from its start; answered with itself
	QUIT = 'q',
};

struct client {
	int fd; // -1 when free
	int input;
	int behind; // the held packet is yet to be sent
	time_t since;
};

static volatile sig_atomic_t stopping;
static struct stream outs[2];
static struct client clients[MAX_CLIENTS];
static int listener, input_fd = -1, input_once;

// held is the packet that some client is behind with; nothing more is read
// from the container meanwhile.
static struct {
	char kind;
	size_t len;
	char data[MAX_LINE];
} held;

static struct {
	size_t len, done;
	int end;
	char data[MAX_LINE];
} input;

// backlog has, until the first client comes, records of a kind, a length of
// two bytes and data.
static struct {
	int open;
	size_t len, last; // last is where the newest record begins
	uint8_t data[BACKLOG];
} backlog;

static void on_term(int sig)
{
	(void)sig;
	stopping = 1;
}

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static ssize_t send_packet(int fd, char kind, const void *data, size_t len)
{
	struct iovec iov[2] = { { &kind, 1 }, { (void *)data, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n;
}

// send_waiting sends and waits for room, within a limit.
static void send_waiting(int fd, char kind, const void *data, size_t len)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	while (send_packet(fd, kind, data, len) < 0 && errno == EAGAIN)
		if (poll(&p, 1, LAST_MS) <= 0)
			return;
}

static void close_input(void)
{
	if (input_fd >= 0)
		close(input_fd);
	input_fd = -1;
}

static void drop(struct client *c)
{
	close(c->fd);
	c->fd = -1;
	c->behind = 0;
	if (c->input && input_once)
		input.end = 1;
	c->input = 0;
}

static int any_behind(void)
{
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (clients[i].fd >= 0 && clients[i].behind)
			return 1;
	return 0;
}

static size_t record_len(const uint8_t *r)
{
	return 3 + (size_t)(r[1] << 8 | r[2]);
}

// remember appends to the backlog, whose oldest records give way.
static void remember(char kind, const char *data, size_t len)
{
	uint8_t *last = backlog.data + backlog.last;
	size_t gone = 0;

	while (backlog.len - gone + len + 3 > BACKLOG)
		gone += record_len(backlog.data + gone);
	if (gone) {
		memmove(backlog.data, backlog.data + gone, backlog.len - gone);
		backlog.len -= gone;
		backlog.last = backlog.len && backlog.last >= gone ? backlog.last - gone : 0;
		last = backlog.data + backlog.last;
	}
	if (!backlog.len || last[0] != kind || record_len(last) + len > MAX_LINE) {
		backlog.last = backlog.len;
		last = backlog.data + backlog.last;
		last[0] = kind;
		last[1] = last[2] = 0;
		backlog.len += 3;
	}
	memcpy(backlog.data + backlog.len, data, len);
	backlog.len += len;
	len += record_len(last) - 3;
	last[1] = len >> 8;
	last[2] = len & 255;
}

// forget_lines keeps of the backlog what the log does not have: the beginning of
// a line, such as a prompt.
static void forget_lines(void)
{
	static const char kinds[2] = { FROM_STDOUT, FROM_STDERR };

	if (!backlog.open)
		return;
	backlog.len = backlog.last = 0;
	for (int i = 0; i < 2; i++)
		if (outs[i].used > 0)
			remember(kinds[i], outs[i].line, outs[i].used);
}

static void send_all(char kind, const char *data, size_t len)
{
	if (backlog.open)
		remember(kind, data, len);
	for (int i = 0; i < MAX_CLIENTS; i++) {
		struct client *c = &clients[i];

		if (c->fd < 0 || send_packet(c->fd, kind, data, len) >= 0)
			continue;
		if (errno != EAGAIN) {
			drop(c);
			continue;
		}
		c->behind = 1;
		c->since = seconds();
	}
	if (any_behind()) {
		held.kind = kind;
		held.len = len;
		memcpy(held.data, data, len);
	}
}

// catch_up sends the held packet to a client with room again.
static void catch_up(struct client *c)
{
	if (send_packet(c->fd, held.kind, held.data, held.len) >= 0)
		c->behind = 0;
	else if (errno != EAGAIN)
		drop(c);
}

static void hello(struct client *c, int wants_input)
{
	c->input = wants_input;
	if (!backlog.open)
		return;
	backlog.open = 0;
	for (size_t at = 0; at < backlog.len; at += record_len(backlog.data + at)) {
		const uint8_t *r = backlog.data + at;

		send_waiting(c->fd, (char)r[0], r + 3, record_len(r) - 3);
	}
}

static void write_input(void)
{
	while (input_fd >= 0 && input.done < input.len) {
		ssize_t n = write(input_fd, input.data + input.done, input.len - input.done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			break;
		input.done += (size_t)n;
	}
	input.len = input.done = 0;
	if (input.end)
		close_input();
}

static void finish(void)
{
	static const char kinds[2] = { FROM_STDOUT, FROM_STDERR };

	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < MAX_CLIENTS; j++)
			if (clients[j].fd >= 0 && clients[j].behind) {
				send_waiting(clients[j].fd, held.kind, held.data, held.len);
				clients[j].behind = 0;
			}
		for (int n = 0; n < LAST_READS && outs[i].fd >= 0 && !any_behind(); n++)
			if (shoal_log_read(&outs[i], send_all, kinds[i]) <= 0)
				break;
		if (outs[i].used > 0)
			shoal_log_emit(&outs[i], outs[i].line, outs[i].used, 'F');
		outs[i].used = 0;
	}
	for (int j = 0; j < MAX_CLIENTS; j++)
		if (clients[j].fd >= 0 && clients[j].behind)
			send_waiting(clients[j].fd, held.kind, held.data, held.len);
	unlink("sock");
	_exit(0);
}

static void receive(struct client *c)
{
	char buf[1 + MAX_LINE];
	ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(c);
		return;
	}
	switch (buf[0]) {
	case HELLO:
		hello(c, n > 1 && buf[1] == 'i');
		break;
	case INPUT:
		if (input_fd >= 0 && !input.end) {
			memcpy(input.data, buf + 1, (size_t)n - 1);
			input.len = (size_t)n - 1;
			input.done = 0;
		}
		break;
	case INPUT_END:
		input.end = 1;
		break;
	case STATE:
		send_packet(c->fd, STATE, input_fd < 0 || input.end ? "c" : "o", 1);
		break;
	case LOG_READ:
		forget_lines();
		send_packet(c->fd, LOG_READ, NULL, 0);
		break;
	case QUIT:
		finish();
	}
}

static void greet(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (clients[i].fd < 0) {
			clients[i] = (struct client){ .fd = fd };
			return;
		}
	close(fd);
}

static int open_pipe(const char *name, int mode)
{
	return open(name, mode | O_NONBLOCK | O_CLOEXEC);
}

static int listen_here(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "sock" };

	unlink("sock");
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0)
		return 0;
	umask(0077);
	return bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, MAX_CLIENTS) == 0;
}

static void prepare(const char *flags)
{
	struct sigaction sa = { .sa_handler = on_term };
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGTERM);
	sigprocmask(SIG_BLOCK, &block, NULL);
	sigaction(SIGTERM, &sa, NULL);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "shoal-console", 0, 0, 0);
	for (int i = 0; i < MAX_CLIENTS; i++)
		clients[i].fd = -1;
	backlog.open = 1;
	outs[0].name = "stdout";
	outs[1].name = "stderr";
	outs[0].fd = open_pipe("out", O_RDONLY);
	// A terminal has one output.
	outs[1].fd = strchr(flags, 't') ? -1 : open_pipe("err", O_RDONLY);
	input_once = strchr(flags, 'o') != NULL;
	// Linux opens a pipe for both directions without waiting for the shim.
	if (strchr(flags, 'i') && (input_fd = open_pipe("in", O_RDWR)) < 0)
		_exit(3);
	if (outs[0].fd < 0 || (outs[1].fd < 0 && !strchr(flags, 't')) || !listen_here())
		_exit(3);
	if (strchr(flags, 'c'))
		close_input();
	shoal_log_open();
	close(FD_CONSOLE_READY);
}

static void watch(struct pollfd *p, int fd, short events)
{
	p->fd = events ? fd : -1;
	p->events = events;
	p->revents = 0;
}

static void run(void)
{
	enum { OUT, ERR, LISTENER, IN, FIRST_CLIENT };
	struct pollfd p[FIRST_CLIENT + MAX_CLIENTS];
	sigset_t none;

	sigemptyset(&none);
	for (;;) {
		int behind = any_behind();
		struct timespec limit = { .tv_sec = STUCK_SECONDS };

		if (stopping || (outs[0].fd < 0 && outs[1].fd < 0))
			finish();
		watch(&p[OUT], outs[0].fd, behind ? 0 : POLLIN);
		watch(&p[ERR], outs[1].fd, behind ? 0 : POLLIN);
		watch(&p[LISTENER], listener, POLLIN);
		watch(&p[IN], input_fd, input.len ? POLLOUT : 0);
		for (int i = 0; i < MAX_CLIENTS; i++)
			watch(&p[FIRST_CLIENT + i], clients[i].fd,
			      (clients[i].behind ? POLLOUT : 0) | (input.len ? 0 : POLLIN));
		if (ppoll(p, FIRST_CLIENT + MAX_CLIENTS, behind ? &limit : NULL, &none) < 0 && errno != EINTR)
			finish();
		if (p[OUT].revents)
			shoal_log_read(&outs[0], send_all, FROM_STDOUT);
		if (p[ERR].revents && !any_behind())
			shoal_log_read(&outs[1], send_all, FROM_STDERR);
		for (int i = 0; i < MAX_CLIENTS; i++) {
			struct client *c = &clients[i];
			short got = p[FIRST_CLIENT + i].revents;

			if (c->fd < 0 || c->fd != p[FIRST_CLIENT + i].fd)
				continue;
			if (c->behind && (got & POLLOUT))
				catch_up(c);
			if (c->fd >= 0 && c->behind && seconds() - c->since >= STUCK_SECONDS)
				drop(c);
			if (c->fd >= 0 && !input.len && (got & (POLLIN | POLLHUP | POLLERR)))
				receive(c);
		}
		if (p[LISTENER].revents)
			greet();
		if (input.len || input.end)
			write_input();
	}
}

__attribute__((constructor)) static void shoal_console(int argc, char **argv)
{
	if (argc != 4 || !argv || !argv[1] || strcmp(argv[1], "shoal-console") != 0)
		return;
	if (!shoal_log_take(&argv[3]) || argv[3][0] != '/')
		_exit(2);
	shoal_log.path = argv[3];
	prepare(argv[2]);
	run();
}
