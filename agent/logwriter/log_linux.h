// Log lines and files, shared by the log writer and the console. All of it
// runs in a constructor, before the Go runtime.

#pragma once
#include <stddef.h>

enum {
	MAX_LINE = 16 << 10, // keep equal to MaxLineBytes
};

struct stream {
	int fd; // -1 after its end
	const char *name;
	size_t used;
	char line[MAX_LINE]; // the start of a line whose end is yet to come
};

struct logfile {
	const char *path;
	int fd;
	long long size;
	long long max_bytes;
	long max_files;
};

// shoal_log is the one log of this process.
extern struct logfile shoal_log;

// shoal_log_take reads "maxBytes:maxFiles:" into shoal_log and moves past it;
// it returns 0 for anything else.
int shoal_log_take(char **spec);
// shoal_take_number reads "NUMBER:" likewise.
int shoal_take_number(char **spec, long long *out);
void shoal_log_open(void);
// shoal_log_emit writes one line; tag P says that more of it follows.
void shoal_log_emit(struct stream *s, const char *msg, size_t len, char tag);
// shoal_log_split writes the lines that end in the fresh bytes just read to
// s->line + s->used.
void shoal_log_split(struct stream *s, size_t fresh);
// shoal_log_read reads once and writes the lines that end; tell, if there is one,
// is given what was read, with kind. It returns 0 when nothing is there now, and
// -1 at the end, with the stream closed.
int shoal_log_read(struct stream *s, void (*tell)(char kind, const char *data, size_t len), char kind);
