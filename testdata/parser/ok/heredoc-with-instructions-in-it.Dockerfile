FROM a
COPY <<Dockerfile /
FROM b
RUN x \
COPY <<EOF /y
EOF
Dockerfile
RUN z
