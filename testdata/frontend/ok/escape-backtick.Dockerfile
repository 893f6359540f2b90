# escape=`
FROM busybox
ENV A=C:\dir B="x`"y"
RUN echo `
  $A
WORKDIR /a`$b
