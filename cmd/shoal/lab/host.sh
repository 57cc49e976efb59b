# The first process of a lab host, run with -e in new namespaces: it gives the
# host a file system of its own where hosts differ, says so on descriptor 3 and
# becomes a process that waits for ever. Ignoring SIGCHLD survives exec and
# makes the kernel reap what daemons orphan.
# $1 is the host's directory, $2 its name.
mount --make-rslave /
mount --make-rshared /
mount -t proc proc /proc
echo "$2" > /proc/sys/kernel/hostname
mount --bind "$1/log" /var/log
mount --bind "$1/lib" /var/lib
mount -t tmpfs -o mode=0755 tmpfs /run
echo ready >&3
exec 3>&-
trap '' CHLD
exec sleep infinity
