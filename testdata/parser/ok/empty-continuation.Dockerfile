FROM a
RUN one \

  two \
   
# comment

  three
