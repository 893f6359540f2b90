# escape=`
FROM a
RUN <<eo\'f
x
eo'f
