ln -s nope l
