FROM a
COPY <<EOF /x
one
EOF
RUN x
