FROM busybox AS base
ARG A=1
FROM base
RUN echo $A
FROM busybox
RUN echo $A
