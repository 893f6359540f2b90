printf "\377\n">.dockerignore; touch $(printf "\377"); echo>b
