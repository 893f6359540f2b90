#> build-arg=A=option
ARG A=global
ARG B=global
ARG C
FROM busybox
ARG A=default
ARG B
ARG C
ARG D
ARG E=default
RUN echo $A $B $C $D $E
