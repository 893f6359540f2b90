FROM busybox AS a
FROM debian AS a
RUN x
