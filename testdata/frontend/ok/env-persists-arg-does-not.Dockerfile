FROM busybox AS a
ARG A=1
ENV E=$A
FROM a
RUN echo $A $E
