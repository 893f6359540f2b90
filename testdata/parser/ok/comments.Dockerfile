# above FROM
#
# build the base
  # indented

FROM a AS base
# not a directive: escape=`
RUN a \
  # inside a continuation
  b # data

# the name is
ARG NAME
