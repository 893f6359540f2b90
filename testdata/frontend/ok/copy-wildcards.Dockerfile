FROM busybox
COPY *.c a?b [[]x [a-c]d \*e dir*/f* /d/
