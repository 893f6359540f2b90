FROM onbuild-bad
RUN x
