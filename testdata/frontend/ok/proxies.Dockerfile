FROM busybox
RUN one
ARG HTTP_PROXY
RUN two
ENV no_proxy=here
RUN three
#> build-arg=HTTP_PROXY=http://proxy
#> build-arg=no_proxy=local
