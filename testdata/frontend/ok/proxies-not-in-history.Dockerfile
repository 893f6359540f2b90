#> build-arg=HTTP_PROXY=http://p
#> build-arg=no_proxy=x
FROM busybox
RUN one
ARG HTTP_PROXY
RUN two
