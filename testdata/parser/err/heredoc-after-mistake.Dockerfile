FROM a
RUN --foo <<EOF
RUN x
EOF
COPY --foo <<A /x
FOO
A
BAR
