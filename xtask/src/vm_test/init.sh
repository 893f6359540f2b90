#!/bin/sh
# The first process of the virtual machine of `cargo xtask vm-test`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname vm
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/kernel/panic
cd /vm-test || exit
failed=

check() {
    name=$1
    shift
    echo "==== $name"
    "$@" || { echo "==== $name: FAILED"; failed="$failed $name"; }
}

# A build whose output must hold a text.
says() {
    code=$1 text=$2
    shift 2
    ./builder build --no-cache --progress=plain --build-context busybox=oci-layout:///vm-test/busybox "$@" > /tmp/said 2>&1
    found=$?
    if [ "$found" != "$code" ] || ! grep -qF -- "$text" /tmp/said; then
        cat /tmp/said
        echo "expected exit code $code and: $text; the exit code is $found"
        return 1
    fi
}

dockerfile() {
    rm -rf /tmp/context && mkdir /tmp/context && cat > /tmp/context/Dockerfile
}

memory() {
    dockerfile <<'D'
FROM busybox
RUN head -c 100000000 /dev/zero > /big && sort /big > /dev/null
D
    says 1 '25165824' --memory 24m /tmp/context
}

fork_bomb() {
    dockerfile <<'D'
FROM busybox
RUN bomb() { bomb | bomb & }; bomb 2> /dev/null; sleep 1; echo alive
D
    timeout 60 ./builder build --no-cache --pids-limit 40 --progress=plain \
        --build-context busybox=oci-layout:///vm-test/busybox /tmp/context > /tmp/said 2>&1
    # Whether the step itself fails is up to chance. The machine has to answer, and nothing may be left.
    sleep 1
    [ "$(pgrep -fc bomb)" = 0 ] && [ -z "$(find /sys/fs/cgroup -name 'builder-*')" ]
}

values() {
    dockerfile <<'D'
FROM busybox
RUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpuset.cpus | tr '\n' ' '
D
    says 0 '67108864 33554432 77 20000 100000 0' --memory 64m --memory-swap 96m --pids-limit 77 --cpu-quota 20000 \
        --cpuset-cpus 0 /tmp/context
}

# An ordinary user has no group of his own here: limits that were asked for cannot be kept.
refused() {
    dockerfile <<'D'
FROM busybox
RUN true
D
    useradd -m worker 2>/dev/null
    chmod -R a+rX /vm-test/busybox /tmp/context
    setpriv --reuid worker --regid worker --clear-groups env HOME=/home/worker \
        ./builder build --memory 64m --build-context busybox=oci-layout:///vm-test/busybox /tmp/context > /tmp/said 2>&1
    found=$?
    [ "$found" != 0 ] && grep -q 'memory' /tmp/said || { cat /tmp/said; return 1; }
}

another_architecture() {
    dockerfile <<'D'
FROM --platform=linux/arm64 scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "uname", "-m"]
D
    cp /arm64/bin/busybox /tmp/context/
    says 1 'qemu-user-static' --platform linux/arm64 /tmp/context || return 1
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    /usr/sbin/update-binfmts --enable qemu-aarch64 || return 1
    says 0 'aarch64' --platform linux/arm64 /tmp/context
}

uname -r
./builder info
check sandbox ./sandbox $(cat filter)
check memory memory
check fork-bomb fork_bomb
check values values
check refused refused
check another-architecture another_architecture
[ -z "$failed" ] && echo "vm-test: all passed" || echo "vm-test: failed:$failed"
sync
echo o > /proc/sysrq-trigger
sleep 10
