FROM busybox
ENV A="${B:?must be given}" C="a ${D!x} b"
ENV E=${F
WORKDIR /a/${
USER ${U%%\x}
LABEL a=${b#\x} c=d
EXPOSE ${P:?port}
ARG Z=${Y?unset}
COPY --chown=${O:?owner} ${S:?source} ${D:?dest}
COPY <<EOF /x
line ${q:?in a heredoc}
EOF
