FROM busybox
ENV a b
LABEL c d
