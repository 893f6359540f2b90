FROM a
RUN ["a", "b c"]
RUN  [ "a" ,"\u0041\n\"" ]  
RUN []
CMD []
ENTRYPOINT [""]
CMD [ "a", \
  "b" ]
