printf "\xff\n">.dockerignore; touch $(printf "\xff"); echo>b
