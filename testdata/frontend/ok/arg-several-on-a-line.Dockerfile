FROM busybox
ARG A=1 B=$A-2 C
RUN echo $B
