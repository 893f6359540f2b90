#> build-arg=HTTP_PROXY=p
FROM busybox
ARG A=1
ENV B=2
ARG C
RUN --mount=type=secret,id=s,env=S env
