# syntax=docker/dockerfile:1
# escape=`
FROM a
RUN a `
 b
COPY <<EOF /x
one
EOF
