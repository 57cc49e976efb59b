// The runtime's stand-in of package secretspec. It runs in a constructor,
// before the Go runtime, in a process the containerd shim started as the
// container's OCI runtime by a link in the container's directory. `create`
// and `exec` get a copy of their specification with the secret values in it;
// then this process becomes the real runtime.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINK_NAME "shoal-oci-runtime" // keep equal to linkName

enum {
	VALUES_MAX = 1 << 16,   // strings of one specification
	FILE_MAX = 64 << 20,    // containerd takes 16 MiB; values come on top
	PROCESS_FD_MIN = 100,   // out of the way of what a shim passes on
};

struct text {
	char *at;
	size_t len;
};

static const char *log_path; // of the runtime, where the shim looks for errors
static struct text prefix;
static struct text *values;
static long value_count;

// fail ends the process. The message goes where the shim reads the runtime's
// own; it never contains a value, nor a quote.
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	char message[PATH_MAX + 256];
	struct timespec now;
	struct tm tm;
	va_list args;
	FILE *log;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	for (char *c = message; *c; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			*c = '?';
	dprintf(STDERR_FILENO, "shoal: %s\n", message);
	log = log_path ? fopen(log_path, "ae") : NULL;
	if (log) {
		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		fprintf(log, "{\"level\":\"error\",\"msg\":\"shoal: %s\",\"time\":\"%04d-%02d-%02dT%02d:%02d:%02dZ\"}\n",
			message, tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
			tm.tm_hour, tm.tm_min, tm.tm_sec);
		fclose(log);
	}
	_exit(1);
}

static struct text read_file(const char *path)
{
	struct text t = { NULL, 0 };
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) != 0)
		fail("read %s: %s", path, strerror(errno));
	if (st.st_size > FILE_MAX)
		fail("read %s: larger than %d bytes", path, FILE_MAX);
	t.at = malloc((size_t)st.st_size + 1);
	if (!t.at)
		fail("read %s: no memory", path);
	while (t.len < (size_t)st.st_size) {
		ssize_t n = read(fd, t.at + t.len, (size_t)st.st_size - t.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail("read %s: it ends early", path);
		t.len += (size_t)n;
	}
	t.at[t.len] = 0;
	close(fd);
	return t;
}

// take_line cuts the first line off rest.
static struct text take_line(struct text *rest)
{
	struct text line = { rest->at, 0 };
	char *end = memchr(rest->at, '\n', rest->len);

	if (!end)
		fail("the secret values of this container are damaged");
	line.len = (size_t)(end - rest->at);
	*end = 0;
	rest->at = end + 1;
	rest->len -= line.len + 1;
	return line;
}

static void load_values(const char *dir)
{
	char path[PATH_MAX];
	struct text rest, count;

	snprintf(path, sizeof(path), "%s/values", dir);
	rest = read_file(path);
	prefix = take_line(&rest);
	count = take_line(&rest);
	value_count = strtol(count.at, NULL, 10);
	if (value_count < 0 || value_count > VALUES_MAX)
		fail("the secret values of this container are damaged");
	values = calloc((size_t)value_count + 1, sizeof(*values));
	if (!values)
		fail("no memory for secret values");
	for (long i = 0; i < value_count; i++)
		values[i] = take_line(&rest);
}

static void write_all(int fd, const char *at, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail("write the specification: %s", strerror(errno));
		at += n;
		len -= (size_t)n;
	}
}

static void write_root(int fd, const char *bundle)
{
	for (const char *c = bundle; *c; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
			fail("the bundle's path has characters that need escaping");
	write_all(fd, "\"", 1);
	write_all(fd, bundle, strlen(bundle));
	write_all(fd, "/rootfs\"", 8);
}

// splice writes spec to fd with each token, a whole JSON string, replaced by
// what it stands for.
static void splice_values(int fd, struct text spec, const char *bundle)
{
	char *from = spec.at, *end = spec.at + spec.len, *hit;

	while ((hit = memmem(from, (size_t)(end - from), prefix.at, prefix.len))) {
		char *rest = hit + prefix.len, *quote = memchr(rest, '"', (size_t)(end - rest));
		char *number_end;
		long i;

		if (hit == spec.at || hit[-1] != '"' || !quote)
			fail("a token is not a whole string of the specification");
		write_all(fd, from, (size_t)(hit - 1 - from));
		from = quote + 1;
		if (bundle && quote - rest == 4 && memcmp(rest, "root", 4) == 0) {
			write_root(fd, bundle);
			continue;
		}
		i = strtol(rest, &number_end, 10);
		if (number_end != quote || number_end == rest || i < 0 || i >= value_count)
			fail("a token of the specification stands for nothing");
		write_all(fd, values[i].at, values[i].len);
	}
	write_all(fd, from, (size_t)(end - from));
}

// own_bundle makes the specification with its values in the container's
// directory, which is on a tmpfs, and gives the directory to name as bundle.
static char *own_bundle(const char *dir, const char *bundle)
{
	char path[PATH_MAX], *own;
	int fd;

	snprintf(path, sizeof(path), "%s/config.json", bundle);
	struct text spec = read_file(path);
	snprintf(path, sizeof(path), "%s/bundle/config.json", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		fail("write %s: %s", path, strerror(errno));
	splice_values(fd, spec, bundle);
	close(fd);
	if (asprintf(&own, "%s/bundle", dir) < 0)
		fail("no memory");
	return own;
}

// own_process gives a path to the process with its values, in memory that goes
// with the runtime. The descriptor must outlive exec; runtimes close it
// before they start the command.
static char *own_process(const char *file)
{
	struct text spec = read_file(file);
	int made = memfd_create("process", MFD_CLOEXEC), fd;
	char *own;

	fd = made < 0 ? -1 : fcntl(made, F_DUPFD, PROCESS_FD_MIN);
	if (fd < 0)
		fail("make memory for a process: %s", strerror(errno));
	splice_values(fd, spec, NULL);
	if (asprintf(&own, "/proc/self/fd/%d", fd) < 0)
		fail("no memory");
	return own;
}

// argument gives the place of the value of flag among args, or NULL.
static char **argument(char **args, const char *flag)
{
	for (; *args; args++)
		if (strcmp(*args, flag) == 0 && args[1])
			return args + 1;
	return NULL;
}

static void become_runtime(const char *dir, char **argv)
{
	char path[PATH_MAX], target[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/runtime", dir);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		fail("find the OCI runtime: %s: %s", path, strerror(errno));
	target[n] = 0;
	argv[0] = target;
	execv(target, argv);
	fail("run %s: %s", target, strerror(errno));
}

__attribute__((constructor)) static void shoal_oci_runtime(int argc, char **argv)
{
	char *slash, *dir, **value;

	if (argc < 1 || !argv || !argv[0] || argv[0][0] != '/')
		return;
	slash = strrchr(argv[0], '/');
	if (strcmp(slash + 1, LINK_NAME) != 0)
		return;
	dir = strndup(argv[0], (size_t)(slash - argv[0]));
	if (!dir)
		fail("no memory");
	value = argument(argv + 1, "--log");
	log_path = value ? *value : NULL;
	for (char **arg = argv + 1; *arg; arg++) {
		if (strcmp(*arg, "create") == 0 && (value = argument(arg, "--bundle"))) {
			load_values(dir);
			*value = own_bundle(dir, *value);
			break;
		}
		if (strcmp(*arg, "exec") == 0 && (value = argument(arg, "--process"))) {
			load_values(dir);
			*value = own_process(*value);
			break;
		}
	}
	become_runtime(dir, argv);
}
