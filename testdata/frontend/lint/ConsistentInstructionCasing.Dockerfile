FROM busybox
run a
RUN b
