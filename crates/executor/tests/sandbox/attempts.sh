# Known ways out of a sandbox. Every attempt prints its name and how it ended. OUTSIDE is a file of the host, HOSTS are processes of it whose program,
# argument, environment and memory have "builder-outside" in them.
try() { name=$1; shift; if "$@" > /dev/null 2>&1; then echo "$name: succeeded"; else echo "$name: failed"; fi; }
for dir in /proc/1/root /proc/self/root /proc/1/cwd /proc/self/cwd /dev/pts /dev/shm /sys; do
    try "$dir" cat "$dir/$OUTSIDE"
    try "$dir/.." cat "$dir/../../../../../../../../$OUTSIDE"
done
for fd in /proc/[0-9]*/fd/*; do try "$fd" cat "$fd/$OUTSIDE"; try "$fd/.." cat "$fd/../../../../../../$OUTSIDE"; done
cut -d' ' -f5 /proc/self/mountinfo | while read -r mount; do
    try "$mount/.." cat "$mount/../../../../../../../../../$OUTSIDE"
done
for host in $HOSTS; do
    for dir in root cwd; do try "/proc/HOST/$dir" cat "/proc/$host/$dir/$OUTSIDE"; done
    for file in cmdline environ exe maps smaps numa_maps; do
        try "/proc/HOST/$file" grep -q builder-outside "/proc/$host/$file"
        try "/proc/HOST/task/HOST/$file" grep -q builder-outside "/proc/$host/task/$host/$file"
    done
    for file in auxv cgroup fdinfo/0 io limits mountinfo pagemap personality stack status syscall; do try "/proc/HOST/$file" sh -c "head -c 1 /proc/$host/$file | grep -q ."; done
    for file in fd/0 mem; do try "open /proc/HOST/$file" sh -c ": < /proc/$host/$file"; done
    for file in exe fd/0 ns/mnt ns/net ns/pid ns/user; do try "read link /proc/HOST/$file" readlink "/proc/$host/$file"; done
    for dir in fdinfo map_files; do try "list /proc/HOST/$dir" sh -c "ls /proc/$host/$dir | grep -q ."; done
    for file in autogroup clear_refs comm coredump_filter mem oom_adj oom_score_adj sched timerslack_ns; do
        try "write /proc/HOST/$file" sh -c "echo 1 > /proc/$host/$file"
    done
    try "host's namespace" nsenter -t "$host" -m -n true
    try "kill" kill -0 "$host"
done
try "core pattern" sh -c 'echo "|/tmp/x" > /proc/sys/kernel/core_pattern'
try "modprobe path" sh -c 'echo /tmp/x > /proc/sys/kernel/modprobe'
try "hotplug" sh -c 'echo /tmp/x > /sys/kernel/uevent_helper'
try "sysrq" sh -c 'echo h > /proc/sysrq-trigger'
try "binfmt" sh -c 'echo ":x:M::xyz::/tmp/x:" > /proc/sys/fs/binfmt_misc/register'
try "host name" sh -c 'echo x > /proc/sys/kernel/hostname'
try "forwarding" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
try "drop caches" sh -c 'echo 1 > /proc/sys/vm/drop_caches'
try "out of memory" sh -c 'echo -1000 > /proc/self/oom_score_adj'
try "huge pages" sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled'
try "release agent" sh -c 'mkdir /tmp/cg && mount -t cgroup -o memory none /tmp/cg && echo /tmp/x > /tmp/cg/release_agent'
try "release agent in place" sh -c 'find /sys/fs/cgroup -name release_agent | while read f; do echo /tmp/x > $f && exit 0; done; exit 1'
try "cgroup" sh -c 'find /sys/fs/cgroup -name cgroup.procs | while read f; do echo 0 > $f && exit 0; done; exit 1'
for kind in proc sysfs tmpfs devpts cgroup2 overlay; do try "mount $kind" mount -t $kind none /tmp; done
try "bind" mount -o bind / /tmp
try "remount" mount -o remount,rw /proc/sys
try "unmount" umount -l /proc
try "mounts in a namespace" unshare -m mount -t tmpfs none /tmp
try "namespace of init" nsenter -t 1 -m -n true
for node in mem:c:1:1 kmsg:c:1:11 disk:b:254:0 disk:b:8:0 port:c:1:4 fuse:c:10:229; do
    set -- $(echo $node | tr : ' ')
    rm -f /tmp/$1; mknod /tmp/$1 $2 $3 $4 2> /dev/null; try "node $1" head -c 1 /tmp/$1
done
for file in /dev/mem /dev/kmem /dev/port /dev/kmsg /proc/kcore /proc/kallsyms-x /proc/config-x; do try "$file" sh -c "head -c 1 $file | grep -q ."; done
try "log" sh -c 'dmesg | grep -q .'
try "modules" insmod /bin/busybox
try "time" sh -c 'date -s 2001-01-01; [ $(date +%Y) = 2001 ]'
try "swap" swapon /bin/busybox
try "chroot" sh -c 'mkdir -p /tmp/j/bin && cp /bin/busybox /tmp/j/bin/ && chroot /tmp/j /bin/busybox cat ../../../../../../'"$OUTSIDE"
ln -s "/proc/self/fd" /tmp/fds; ln -s "$OUTSIDE" /tmp/link; try "link" cat /tmp/link
echo tried
