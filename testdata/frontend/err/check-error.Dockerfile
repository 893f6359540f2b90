# check=error=true
FROM busybox
CMD sh
