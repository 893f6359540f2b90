# syntax=docker/dockerfile:1 with words after it
#ESCAPE = `
# check = skip=JSONArgsRecommended;error=true
# unknown=ends the directives
# check=all
FROM a
WORKDIR c:\x\
RUN a `
  b
