FROM busybox
#> target=0
