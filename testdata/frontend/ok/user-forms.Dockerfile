FROM busybox
ARG U=7
USER $U:8
RUN a
USER name
RUN b
USER ""
RUN c
