#> target=stage-0
FROM busybox
