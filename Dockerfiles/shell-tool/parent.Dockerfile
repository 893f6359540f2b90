# The parent: a toolbox that turns every image built from it into a command. What it defers with ONBUILD runs in the
# child, with the child's context.
FROM busybox
SHELL ["/bin/sh", "-eu", "-c"]
RUN <<EOF
mkdir -p /usr/local/bin /usr/local/lib/tool
echo 'tool:x:1000:1000::/work:/bin/sh' >> /etc/passwd
echo 'tool:x:1000:' >> /etc/group
EOF
COPY --chmod=755 <<'EOF' /usr/local/bin/tool
#!/bin/sh
# Runs the command named by the first argument.
set -eu
name=${1:-help}
if [ "$name" = help ] || [ ! -x "/usr/local/lib/tool/$name" ]; then
	echo "usage: tool COMMAND [ARGUMENT...]"
	echo "commands:" $(ls /usr/local/lib/tool)
	[ "$name" = help ]
	exit
fi
shift
exec "/usr/local/lib/tool/$name" "$@"
EOF
ONBUILD ARG TITLE=tool
ONBUILD COPY --chmod=755 commands/ /usr/local/lib/tool/
ONBUILD RUN printf '%s\n' "$TITLE" > /etc/tool-title
ONBUILD USER tool
WORKDIR /work
ENTRYPOINT ["tool"]
CMD ["help"]
