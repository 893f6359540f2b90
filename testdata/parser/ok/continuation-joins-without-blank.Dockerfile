FROM a
RUN ec\
ho \
  x\
y
