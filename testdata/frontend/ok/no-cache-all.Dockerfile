FROM busybox
RUN one
COPY <<f /f
x
f
#> no-cache
