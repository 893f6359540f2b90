FROM busybox AS a
FROM 0
