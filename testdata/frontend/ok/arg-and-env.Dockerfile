#> build-arg=A=arg
#> build-arg=B=arg
FROM busybox
ENV A=env
ARG A
ARG B=default
ENV B=env
ENV C=${A}-${B}
RUN echo $A $B
