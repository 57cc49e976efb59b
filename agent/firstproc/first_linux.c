// The first process of a pod's process namespace. The working directory is an
// empty directory to make a root of. Descriptor 3 is a socket: a byte from here
// says that all is ready, one from there that the process has been noted. Until
// then it goes with who started it, as nobody else would know of it.
//
// With "users" as second argument, descriptor 4 is a user namespace that is to
// own the process namespace: what was started makes the process in it, as its
// sibling, tells its number (4 bytes, before the byte above) and ends.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	FD_STARTER = 3,
	FD_USERS = 4,
	NOBODY = 65535, // the user of upstream's pause image
};

// empty_root leaves nothing of the host's files to be seen through /proc/1/root.
static int empty_root(void)
{
	char dir[4096];

	if (!getcwd(dir, sizeof(dir)))
		return 0;
	// What is mounted or unmounted from here on is not the host's affair.
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return 0;
	if (mount("none", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") != 0 || chdir(dir) != 0)
		return 0;
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH) != 0)
			return 0;
	} else if (mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0) {
		return 0; // a host that runs from its first memory disk cannot pivot
	}
	return chdir("/") == 0;
}

// in_users goes on as the first process of a namespace that the user namespace
// owns. The root is made before: the mounts stay out of reach of its users.
static int in_users(void)
{
	int told[2];
	char gone;
	pid_t child;

	if (setns(FD_USERS, CLONE_NEWUSER) != 0 || unshare(CLONE_NEWPID) != 0 || pipe2(told, O_CLOEXEC) != 0)
		return 0;
	close(FD_USERS);
	// The starter is the parent, which waits for it.
	child = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
	if (child < 0)
		return 0;
	if (child > 0)
		_exit(write(FD_STARTER, &child, sizeof(child)) == sizeof(child) ? 0 : 8);
	close(told[1]);
	while (read(told[0], &gone, 1) < 0 && errno == EINTR)
		;
	close(told[0]);
	return 1;
}

__attribute__((constructor)) static void shoal_first(int argc, char **argv)
{
	char noted;
	ssize_t got;

	if ((argc != 2 && argc != 3) || !argv || !argv[1] || strcmp(argv[1], "shoal-first") != 0)
		return;
	prctl(PR_SET_NAME, "shoal-first", 0, 0, 0);
	// Orphans that end are gone without being waited for.
	signal(SIGCHLD, SIG_IGN);
	if (!empty_root())
		_exit(3);
	if (argc == 3 && !in_users())
		_exit(7);
	if (setgroups(0, NULL) != 0 || setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0)
		_exit(4);
	if (write(FD_STARTER, "", 1) != 1)
		_exit(5);
	do
		got = read(FD_STARTER, &noted, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1)
		_exit(6);
	close(FD_STARTER);
	for (;;)
		pause();
}
