ARG A
ARG B=1 C D="x y" E=
FROM a
ARG A=${B:-"c d"}
