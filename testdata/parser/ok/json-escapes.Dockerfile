FROM a
CMD ["a\u00e9\n", "\"", "\\"]
CMD [ ]
CMD ["a"] b
