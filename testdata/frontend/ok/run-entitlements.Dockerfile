#> network=private
#> allow=network.host
#> allow=security.insecure
#> allow=device=vendor.com/gpu
FROM busybox
RUN --network=host a
RUN --security=insecure b
RUN --device=vendor.com/gpu,required c
RUN --network=none d
RUN --network=default --security=sandbox e
