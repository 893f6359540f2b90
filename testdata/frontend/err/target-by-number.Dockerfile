#> target=0
FROM busybox AS a
FROM busybox AS b
