// Lines in the kubelet's format, and files that are rotated by size and count.

#define _GNU_SOURCE
#include "log_linux.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	STAMP_MAX = 64,   // room for the time, the stream and the tag
	ROTATED_MAX = 64, // rotated files looked at when reaping
};

struct logfile shoal_log;

void shoal_log_open(void)
{
	struct stat st;

	shoal_log.fd = open(shoal_log.path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	shoal_log.size = 0;
	if (shoal_log.fd < 0)
		return;
	if (fstat(shoal_log.fd, &st) == 0)
		shoal_log.size = st.st_size;
	// Ended looks for this lock. Nobody else's is waited for.
	flock(shoal_log.fd, LOCK_SH | LOCK_NB);
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

	snprintf(dir, sizeof(dir), "%s", shoal_log.path);
	snprintf(base, sizeof(base), "%s", shoal_log.path);
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
		if ((long)(count - i) > shoal_log.max_files - 1)
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
	snprintf(name, sizeof(name), "%s.%04d%02d%02d-%02d%02d%02d.%09ld", shoal_log.path,
		 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		 tm.tm_min, tm.tm_sec, now.tv_nsec);
	if (rename(shoal_log.path, name) != 0 && errno != ENOENT)
		return;
	close(shoal_log.fd);
	reap_rotated();
	shoal_log_open();
}

static void write_all(const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = write(shoal_log.fd, buf, len);
		if (n < 0 && errno == EINTR)
			continue;
		// A full disk loses lines; it must never stop the container.
		if (n <= 0)
			return;
		buf += n;
		len -= (size_t)n;
		shoal_log.size += n;
	}
}

void shoal_log_emit(struct stream *s, const char *msg, size_t len, char tag)
{
	char buf[STAMP_MAX + MAX_LINE + 1];
	struct timespec now;
	struct tm tm;
	int n;

	if (shoal_log.fd < 0)
		shoal_log_open();
	if (shoal_log.fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = snprintf(buf, STAMP_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ %s %c ",
		     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		     tm.tm_min, tm.tm_sec, now.tv_nsec, s->name, tag);
	memcpy(buf + n, msg, len);
	buf[n + len] = '\n';
	write_all(buf, n + len + 1);
	// A line in parts may lie in two files: kept whole, one without end would
	// have no bound.
	if (shoal_log.size >= shoal_log.max_bytes)
		rotate();
}

void shoal_log_split(struct stream *s, size_t fresh)
{
	char *start = s->line, *from = s->line + s->used, *nl;

	s->used += fresh;
	while ((nl = memchr(from, '\n', s->line + s->used - from))) {
		shoal_log_emit(s, start, nl - start, 'F');
		start = from = nl + 1;
	}
	s->used = s->line + s->used - start;
	memmove(s->line, start, s->used);
	if (s->used == MAX_LINE) {
		shoal_log_emit(s, s->line, s->used, 'P');
		s->used = 0;
	}
}

// take_number parses "N:" and moves past it.
int shoal_take_number(char **s, long long *value)
{
	char *end;

	*value = strtoll(*s, &end, 10);
	if (end == *s || *end != ':' || *value <= 0)
		return 0;
	*s = end + 1;
	return 1;
}

int shoal_log_take(char **spec)
{
	long long max_bytes, max_files;

	if (!shoal_take_number(spec, &max_bytes) || !shoal_take_number(spec, &max_files))
		return 0;
	shoal_log.max_bytes = max_bytes;
	shoal_log.max_files = (long)max_files;
	return 1;
}

int shoal_log_read(struct stream *s, void (*tell)(char kind, const char *data, size_t len), char kind)
{
	ssize_t n = read(s->fd, s->line + s->used, MAX_LINE - s->used);

	if (n > 0) {
		if (tell)
			tell(kind, s->line + s->used, (size_t)n);
		shoal_log_split(s, (size_t)n);
		return 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (s->used > 0)
		shoal_log_emit(s, s->line, s->used, 'F');
	s->used = 0;
	close(s->fd);
	s->fd = -1;
	return -1;
}
