#!/bin/sh
# The first process of the virtual machine of `cargo xtask vm-test`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
# As systemd mounts it.
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname vm
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/kernel/panic
cd /vm-test || exit
failed= as=

check() {
    name=$1
    shift
    echo "==== $name"
    "$@" || { echo "==== $name: FAILED"; failed="$failed $name"; }
}

# A build, by whom `as` says, whose output must hold a text.
says() {
    code=$1 text=$2
    shift 2
    $as ./builder build --no-cache --progress=plain --build-context busybox=oci-layout:///vm-test/busybox "$@" > /tmp/said 2>&1
    found=$?
    if [ "$found" != "$code" ] || ! grep -qF -- "$text" /tmp/said; then
        cat /tmp/said
        echo "expected exit code $code and: $text; the exit code is $found"
        return 1
    fi
}

dockerfile() {
    rm -rf /tmp/context && mkdir /tmp/context && cat > /tmp/context/Dockerfile
    chmod -R a+rX /tmp/context
}

# A command of an ordinary user.
worker() {
    setpriv --reuid worker --regid worker --clear-groups env HOME=/home/worker "$@"
}

# A command in a control group, by its path from the top.
in_group() {
    group=$1
    shift
    (sh -c 'echo $PPID' > "/sys/fs/cgroup/$group/cgroup.procs" && "$@")
}

# Makes a control group and those above it, with limits to have.
group() {
    made=/sys/fs/cgroup
    for part in $(echo "$1" | tr / ' '); do
        echo '+memory +cpu +cpuset +pids' > $made/cgroup.subtree_control || return 1
        made=$made/$part
        mkdir -p $made
    done
}

# The same, and it is the user's own, as systemd's Delegate= makes it.
delegate() {
    group "$1" || return 1
    chown worker: $made
    for file in $(cat /sys/kernel/cgroup/delegate); do
        [ ! -e "$made/$file" ] || chown worker: "$made/$file"
    done
}

# That the kernel has taken away what steps had.
none_left() {
    sleep 1
    [ -z "$(find /sys/fs/cgroup -name 'builder-[0-9]*' | tee /tmp/left)" ] || { cat /tmp/left; return 1; }
}

memory() {
    dockerfile <<'D'
FROM busybox
RUN head -c 40000000 /dev/zero > /big && sort /big > /dev/null
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
    none_left && [ "$(pgrep -fc bomb)" = 0 ]
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
    as=worker
    says 3 'cgroup controller memory' --memory 64m /tmp/context
}

# Limits that hold, one by one and all at once; arguments are further options. Nothing is left.
limits() {
    $as ./builder info | tee /tmp/info | grep 'limits can be enforced: memory, cpu, cpuset, pids' || { cat /tmp/info; return 1; }
    dockerfile <<'D'
FROM busybox
RUN head -c 40000000 /dev/zero > /big && sort /big > /dev/null
D
    says 1 '25165824' --memory 24m --cpu-quota 50000 "$@" /tmp/context || return 1
    dockerfile <<'D'
FROM busybox
RUN for i in $(seq 40); do sleep 3 & done; wait
D
    says 1 "can't fork" --pids-limit 20 "$@" /tmp/context || return 1
    dockerfile <<'D'
FROM busybox
RUN cd /sys/fs/cgroup; echo $(cat memory.max memory.swap.max pids.max cpu.max cpuset.cpus) $(grep Cpus_allowed_list /proc/self/status)
D
    says 0 '67108864 33554432 77 20000 100000 1 Cpus_allowed_list: 1' --memory 64m --memory-swap 96m --pids-limit 77 --cpu-quota 20000 \
        --cpuset-cpus 1 "$@" /tmp/context || return 1
    none_left
}

# Root's shell, in a group from which controllers are far.
session() {
    session=user.slice/user-0.slice/session-1.scope
    group $session || return 1
    as="in_group $session"
    limits && limits --runtime runc
}

# A user's desktop: its manager's group is his, and the shell's in there beside others of a slice, which has but two controllers for them.
desktop() {
    manager=user.slice/user-1000.slice/user@1000.service
    delegate $manager || return 1
    worker mkdir -p /sys/fs/cgroup/$manager/app.slice/shell.scope
    worker sh -c "echo '+memory +cpu +cpuset +pids' > /sys/fs/cgroup/$manager/cgroup.subtree_control" || return 1
    worker sh -c "echo '+memory +pids' > /sys/fs/cgroup/$manager/app.slice/cgroup.subtree_control" || return 1
    as="in_group $manager/app.slice/shell.scope worker"
    limits && limits --cgroup-parent $manager/builds.slice
}

# A service of a user of its own: the builder is in the very group that was delegated, with whoever calls it.
service() {
    delegate system.slice/ci.service || return 1
    as=worker
    in_group system.slice/ci.service limits
}

# The kernel has AppArmor, and nobody applies Docker's profile.
security_modules() {
    [ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ] || return 1
    ./builder info | grep "^security modules  *-  *AppArmor is active; Docker's profile docker-default is not applied"
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

# A build of a context whose one file is then what was built.
builds_what_is_there() {
    rm -rf /tmp/built
    ./builder build --progress=plain -o /tmp/built /tmp/context > /tmp/said 2>&1 || { cat /tmp/said; return 1; }
    cmp /tmp/context/file /tmp/built/file || { date; stat /tmp/context/file; cat /tmp/said; return 1; }
}

# The clock of the whole machine jumps, by which the kernel says when a file changed; around each jump the file is edited, with as many
# bytes and the time of change as before. A file of which nothing changed for long is known by what stat says: hence the waiting.
clock() {
    dockerfile <<'D'
FROM scratch
COPY file /
D
    number=1000
    echo $number > /tmp/context/file
    modified=$(date -d '-1 hour' +@%s)
    touch -d "$modified" /tmp/context/file
    builds_what_is_there || return 1
    for jump in '+3 years' '-3 years' '-3 years' '+3 years' '-1 second' '-1 second'; do
        sleep 3
        builds_what_is_there || return 1
        date -s "$jump" || return 1
        number=$((number + 1))
        echo $number > /tmp/context/file
        touch -d "$modified" /tmp/context/file
        [ "$(stat -c %Y /tmp/context/file)" = "${modified#@}" ] || return 1
        builds_what_is_there || { echo "after $jump"; return 1; }
        # Again at once, with no jump in between.
        number=$((number + 1))
        echo $number > /tmp/context/file
        touch -d "$modified" /tmp/context/file
        builds_what_is_there || { echo "after $jump and an edit"; return 1; }
    done
}

uname -r
./builder info
useradd -m worker
chmod -R a+rX /vm-test
check security-modules security_modules
check sandbox ./sandbox $(cat filter)
check memory memory
check fork-bomb fork_bomb
check values values
check refused refused
check session session
check desktop desktop
check service service
as=
check another-architecture another_architecture
# The last, as nothing knows the time after it.
check clock clock
[ -z "$failed" ] && echo "vm-test: all passed" || echo "vm-test: failed:$failed"
sync
echo o > /proc/sysrq-trigger
sleep 10
