#> network=private
FROM busybox
RUN --network=host true
RUN --security=insecure true
RUN --device=vendor.com/gpu true
RUN --device=vendor.com/gpu,required --device=vendor.com/net=a true
RUN --network=none true
