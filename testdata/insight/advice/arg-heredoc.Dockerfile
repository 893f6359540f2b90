FROM debian
ARG COMMIT
RUN apk add x <<EOF
$COMMIT
EOF
RUN apk add x
RUN echo $COMMIT
