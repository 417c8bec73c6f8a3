"""What training needs beside the update: acting, advantages, running normalisation, the critic."""
