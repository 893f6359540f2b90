#> allow=device
FROM busybox
RUN --device=vendor.com/gpu,required --device=vendor.com/net=a --device=name=x/y,required=false true
