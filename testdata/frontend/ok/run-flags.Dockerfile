FROM busybox
RUN --network=none true
RUN --network=host true
RUN --network=default true
RUN --security=sandbox true
#> network=none
#> add-host=db=10.0.0.1
#> build-arg=BUILDKIT_SANDBOX_HOSTNAME=box
#> allow=network.host
