from busybox
run a
RUN b
Run c
